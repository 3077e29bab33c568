"""What the API needs for seeing and for feedback; each part can be left out."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aligner_serve.feedback_store import FeedbackStore
from aligner_serve.telemetry import Silent, Watcher
from aligner_serve.watching import Ongoing


@dataclass(frozen=True, slots=True)
class Seeing:
    """The default sees nothing, shows nothing and keeps nothing."""

    watcher: Watcher = field(default_factory=Silent)
    ongoing: Ongoing = field(default_factory=Ongoing)
    metrics: Callable[[], Awaitable[bytes]] | None = None
    """Gives the page ``/metrics``."""
    feedback: FeedbackStore | None = None
