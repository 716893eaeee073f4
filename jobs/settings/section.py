"""What all sections of the settings have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
