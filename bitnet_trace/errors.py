"""The one exception that users see."""


class TraceError(Exception):
    """Something that the user can mend.

    `message` says in one line what is wrong, `hint` what to do (a command to type, where there is one).
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
