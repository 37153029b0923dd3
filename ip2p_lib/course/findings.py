"""What the doctor finds: one record for each check, with a remedy for whatever is not well."""

from dataclasses import dataclass

STATES = ("ok", "look", "broken")
# In the order of looking; each is a heading of docs/troubleshooting.md.
CHECKS = (
    "python", "packages", "torch", "processor", "memory", "folder", "disk", "weights", "offline",
    "jupyter", "kernel", "edit", "widgets",
)  # fmt: skip
# Whatever an installation that is half there raises at import or at the first call.
TROUBLE = (ImportError, OSError, RuntimeError, ValueError, AttributeError, TypeError)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        check: one of `CHECKS`.
        state: "ok", "look" (works, but something will surprise you) or "broken".
        said: what was found, on one line.
        remedy: what to do; none where all is well.

    Raises:
        ValueError: a check or state that does not exist, or trouble without a remedy.
    """

    check: str
    state: str
    said: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.check not in CHECKS or self.state not in STATES:
            raise ValueError(
                f"a finding's check must be one of {', '.join(CHECKS)} and its state one of {', '.join(STATES)};"
                f" got {self.check!r}, {self.state!r}"
            )
        if self.state != "ok" and not self.remedy:
            raise ValueError(f"a finding that is not ok must have a remedy: {self.check}, {self.said}")

    @property
    def anchor(self) -> str:
        """Where docs/troubleshooting.md says more."""
        return f"docs/troubleshooting.md#{self.check}"


def in_one_line(error: BaseException) -> str:
    """An error's first line, with its kind; for errors that are not ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
