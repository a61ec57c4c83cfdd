"""Mappings: reviewed YAML that says how a provider writes its invoice or usage export."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from contracts.identifiers import ModelName, Name
from contracts.problems import FieldError, field_errors
from ledger_service.yaml_documents import YamlDocument, YamlError, placed

BYTES_MAX: Final = 1024 * 1024
#: The only currency that there is in the ledger.
CURRENCY: Final = "USD"

_Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Part):
    """Which column of the header says what."""

    time: _Text
    amount: _Text
    model: _Text | None = None
    job_id: _Text | None = None
    quantity: _Text | None = None
    currency: _Text | None = None


class Skip(_Part):
    """Rows that are no charges: those that have one of these texts in the column; ``""`` stands for an empty one."""

    column: _Text
    values: Annotated[list[Annotated[str, StringConstraints(max_length=200)]], Field(min_length=1, max_length=1000)]


class ModelRule(_Part):
    """``named``: as the provider writes it, with ``*`` for any text; ``model``: as the ledger has it."""

    named: _Text
    model: ModelName


class InvoiceMapping(_Part):
    """See deploy/guides/reconciliation.md. ``rows``: one for each job, or sums of a day, or of a month."""

    provider: Name
    #: Where the columns are documented, and when that was read.
    source: _Text
    read_on: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    rows: Literal["each", "day", "month"] = "each"
    columns: Columns
    currency: _Text | None = None
    #: Of times that do not say theirs, and of the days of sums.
    time_zone: _Text | None = None
    time_format: _Text = "rfc3339"
    #: Whether the time is that at which a job began, or at which it ended.
    time_of: Literal["start", "end"] = "start"
    decimal_separator: Literal[".", ","] = "."
    thousands_separator: Literal["", ",", ".", " ", "'"] = ""
    #: How a charge is written; a credit is written the other way.
    charges: Literal["positive", "negative"] = "positive"
    round_to_nanos: bool = False
    encoding: _Text = "utf-8"
    delimiter: Annotated[str, StringConstraints(min_length=1, max_length=1)] = ","
    lines_before_header: Annotated[int, Field(ge=0, le=1000)] = 0
    skip: Annotated[list[Skip], Field(max_length=100)] = []
    models: Annotated[list[ModelRule], Field(max_length=10_000)] = []

    @model_validator(mode="after")
    def _fits_together(self) -> "InvoiceMapping":
        if self.rows == "each" and self.columns.model is None:
            raise PydanticCustomError("model", "a row for each job needs a column for the model")
        if self.currency is None and self.columns.currency is None:
            raise PydanticCustomError("currency", "the file's currency stands in a column, or in currency")
        if self.currency not in (None, CURRENCY):
            raise PydanticCustomError("currency", "the ledger counts in USD")
        if self.thousands_separator == self.decimal_separator:
            raise PydanticCustomError("separators", "thousands and decimals cannot have the same separator")
        if self.time_zone is not None and self.time_zone not in available_timezones():
            raise PydanticCustomError("time_zone", "not an IANA time zone, such as Europe/Berlin")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise PydanticCustomError("encoding", "encoding is not known") from None
        return self

    def zone(self) -> ZoneInfo | None:
        return None if self.time_zone is None else ZoneInfo(self.time_zone)

    def model_of(self, named: str) -> str:
        """The ledger's name of a model; the provider's own where no rule says another."""
        return next((rule.model for rule in self.models if fnmatchcase(named, rule.named)), named)


class MappingError(Exception):
    """The file is no mapping; ``errors`` name every broken rule with its line and field."""

    def __init__(self, name: str, errors: list[FieldError]) -> None:
        super().__init__(f"{name}: {len(errors)} problem{'s' if len(errors) > 1 else ''}")
        self.errors = errors


def shipped() -> Mapping[str, str]:
    """The mappings that come with this version: their texts by their names."""
    folder = files("ledger_service").joinpath("invoices")
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in found}


def read_mapping(named: str) -> InvoiceMapping:
    """A shipped one by its name, or one in a file. Raises MappingError, and OSError where it cannot be read."""
    text = shipped().get(named)
    if text is None:
        path = Path(named)
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
        if len(content) > BYTES_MAX:
            raise MappingError(path.name, [_whole("too_large", f"at most {BYTES_MAX} bytes")])
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MappingError(path.name, [_whole("utf8", f"not UTF-8: {error}")]) from None
    return parse_mapping(text, named)


def parse_mapping(text: str, name: str) -> InvoiceMapping:
    """Raises MappingError."""
    document = YamlDocument()
    try:
        value = document.read(text)
    except YamlError as error:
        raise MappingError(name, [error.error]) from None
    if not isinstance(value, dict):
        raise MappingError(name, [_whole("mapping", "the file is a mapping: provider, columns, …")])
    try:
        return InvoiceMapping.model_validate(value)
    except ValidationError as error:
        raise MappingError(name, list(_errors(error, document.lines))) from None


def _errors(error: ValidationError, lines: Mapping[str, int]) -> Iterator[FieldError]:
    for one in field_errors(error):
        # Rules of the whole are named after the field that they are about.
        field = one.field or (one.rule if one.rule in InvoiceMapping.model_fields else "columns")
        yield placed(one.model_copy(update={"field": field}), lines)


def _whole(rule: str, message: str) -> FieldError:
    return FieldError(field="", rule=rule, message=message)
