"""What all sections of the settings have in common."""

from __future__ import annotations

from typing import Annotated, Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

# Of an environment variable; what holds a secret is not mistaken for one.
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Section(BaseModel):
    """A part of the settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        validate_default=True,
        # Nothing is above or below what is no number, so a rule of the gate would not hold.
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_has_defaults(cls, value: Any) -> Any:
        """A section whose lines are all comments is as one that is not there."""
        return {} if value is None else value

    @field_validator("*", mode="before")
    @classmethod
    def _flags_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `yes`, `on` and `true`, which would be 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        parts = value if isinstance(value, list) else [value]
        if get_origin(kind) is dict and isinstance(value, dict):
            parts = list(value.values())
        if any(isinstance(part, bool) for part in parts) and "bool" not in str(kind):
            raise ValueError("Input should be no flag (yes, no, on, off, true, false)")
        return value
