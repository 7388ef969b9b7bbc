"""The embedded workload: a synthetic model (`model`) and the small program that decodes with it (`decode`)."""

CONTROL_TOKENS = 3  # <unk>, <s>, </s>
FIRST_WORD = CONTROL_TOKENS + 256  # the byte tokens lie between
