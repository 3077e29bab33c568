"""How the pipeline's ends look in HTTP: replies with their outcome, OpenAI's error objects."""

from typing import Final

from fastapi.responses import JSONResponse

from aligner_serve import wire
from aligner_serve.pipeline import BUSY, TIMEOUT, Reply, Trouble

_RETRY_AFTER_S: Final = 1


def reply(body: wire.ChatResponse | wire.CorrectionResponse, end: Reply) -> JSONResponse:
    content = body.model_dump(mode="json")
    # Fields of OpenAI's that are null stay, as its clients expect; our own are left out.
    content["aligner"] = body.aligner.model_dump(mode="json", exclude_none=True)
    return JSONResponse(content, headers={wire.OUTCOME_HEADER: end.outcome})


def trouble(end: Trouble) -> JSONResponse:
    status = {BUSY: 429, TIMEOUT: 504}.get(end.reason, 502)
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if status == 429 else None
    return JSONResponse(trouble_body(end).model_dump(), status_code=status, headers=headers)


def trouble_body(end: Trouble) -> wire.ErrorResponse:
    kind = "rate_limit_error" if end.reason == BUSY else "server_error"
    failed = (
        "has too much to do; come back later" if end.reason == BUSY else f"failed ({end.reason})"
    )
    return wire.ErrorResponse(
        error=wire.ErrorDetail(
            message=f"the {end.stage} {failed}",
            type=kind,
            code=f"{end.stage}_{end.reason}",
        )
    )


def error(
    status: int, message: str, param: str | None, *, code: str = "invalid_request"
) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    detail = wire.ErrorDetail(message=message, type=kind, param=param, code=code)
    return JSONResponse(wire.ErrorResponse(error=detail).model_dump(), status_code=status)
