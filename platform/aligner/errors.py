"""Every error that this project raises on purpose.

AlignerError
├── ConfigError          a config file, an override or a flag is wrong     (fix the file)
├── DataError            a row, a file or an artefact breaks its contract  (fix the data)
├── ContractMismatch     data, checkpoint and server disagree              (rebuild one of them)
├── GenerationError      a model or an endpoint gave no usable text        (retry, or pass through)
│   └── EndpointError    the endpoint itself does not answer or refuses    (start it, fix the key)
├── TrackingError        the tracking server or its database fails us      (start it, fix the URI)
│   └── TrackingAway     nobody answers there at the moment                (wait, or start it)
├── TrainingError        a training run cannot go on                       (see the sentence)
└── GateRefused          a model or a dataset was found wanting            (make a better one)

Each takes one finished sentence that says where, what and the remedy, and nothing else: without
an ``__init__`` of their own they survive pickling between Ray processes with their class intact.
"""


class AlignerError(Exception):
    """Base of all: the command line prints the sentence and exits with :attr:`exit_code`."""

    exit_code = 2


class ConfigError(AlignerError):
    """A config file, an override or a flag is wrong."""


class DataError(AlignerError):
    """A row, a file or an artefact breaks its contract."""


class ContractMismatch(AlignerError):
    """Two parts that must agree on the correction prompt (or a schema) do not."""


class GenerationError(AlignerError):
    """A model or an endpoint gave no usable text."""


class EndpointError(GenerationError):
    """An endpoint does not answer, or refuses every request."""


class TrackingError(AlignerError):
    """The tracking server, or the database behind it, does not do what it is asked."""


class TrackingAway(TrackingError):
    """Nobody answers at the moment: what was asked may be asked again later."""


class TrainingError(AlignerError):
    """A training run cannot go on."""


class GateRefused(AlignerError):
    """A model or a dataset was measured and does not pass; an honest outcome, no usage error."""

    exit_code = 1
