"""Usage events: CloudEvents 1.0, structured JSON. Shapes are fixed per version; a change is a new version.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
"""

from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from contracts.identifiers import Id, ModelName, Name, OperationType
from contracts.moments import Moment
from contracts.money import CostNanos

#: Of one event, whatever its extensions: an order of magnitude above what the largest that is made here takes.
EVENT_BYTES_MAX: Final = 64 * 1024
METADATA_BYTES_MAX: Final = 4096
QUANTITY_MAX: Final = 1_000_000
INT8_MAX: Final = 2**63 - 1
INT4_MAX: Final = 2**31 - 1

#: How far an event's time may be ahead of the ledger's clock. A clock that is wrong by days is no reason to keep usage
#: out of the books; what is farther ahead would be in a period that nobody looks at, and becomes a dead letter.
AHEAD_MAX: Final = timedelta(days=366)

REQUESTED_V1: Final = "usage.operation.requested.v1"
COMPLETED_V1: Final = "usage.operation.completed.v1"
FAILED_V1: Final = "usage.operation.failed.v1"

#: The error code of an operation that nobody can say was done and billed: its cost is what was held.
OUTCOME_UNKNOWN: Final = "outcome_unknown"

CONTENT_TYPE: Final = "application/cloudevents+json"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"


def _within_metadata_size(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        written = orjson.dumps(metadata)
    except TypeError:  # nested too deep, or an integer beyond 64 bits
        raise PydanticCustomError(
            "metadata_json", "metadata has numbers or nesting beyond what JSON readers take"
        ) from None
    if len(written) > METADATA_BYTES_MAX:
        raise PydanticCustomError("metadata_size", "metadata is larger than 4 KiB")
    return metadata


#: PostgreSQL's text holds no NUL; free text is bounded so that an event stays small.
FreeText = Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00]*$")]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_within_metadata_size)]
#: As CloudEvents has it: a URI reference, of printable ASCII.
Source = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[\x21-\x7e]+$")]
#: Strict wherever it stands: the bodies of requests are checked leniently otherwise.
Quantity = Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX)]
ByteCount = Annotated[int, Field(ge=0, le=INT8_MAX)]


class _Contract(BaseModel):
    # Strict: "5" is not 5, and a misspelt optional field is an error instead of a silent loss.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class OperationData(_Contract):
    """What every event says of its operation."""

    operation_id: Id
    account_id: Name
    user_id: Name
    operation: OperationType
    provider: Name
    model: ModelName
    project_id: Name | None = None
    api_key_id: Name | None = None
    endpoint: FreeText | None = None
    metadata: Metadata | None = None
    quantity: Quantity
    request_bytes: ByteCount


class RequestedData(OperationData):
    estimated_cost: CostNanos


class OutcomeData(OperationData):
    """What completed and failed share: with it alone the usage-log row can be written."""

    cost: CostNanos
    requested_at: Moment
    duration_ms: Annotated[int, Field(ge=0, le=INT8_MAX)]
    actual_provider: Name
    #: The provider's HTTP status; absent where no answer came, or the provider speaks no HTTP.
    status_code: Annotated[int, Field(ge=0, le=999)] | None = None
    retry_count: Annotated[int, Field(ge=0, le=INT4_MAX)]


class CompletedData(OutcomeData):
    response_bytes: ByteCount


class ErrorData(_Contract):
    code: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    message: FreeText


class FailedData(OutcomeData):
    error: ErrorData


class _Event(BaseModel):
    # Unknown attributes are allowed here: CloudEvents lets any intermediary add extensions, trace context for one.
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    outcome: ClassVar[Literal["completed", "failed"] | None] = None

    specversion: Literal["1.0"]
    id: Id
    source: Source
    subject: Name
    time: Moment
    datacontenttype: Literal["application/json"] = "application/json"
    sourcesequence: Annotated[int, Field(ge=1, lt=INT8_MAX)] | None = None
    #: The lease under which the operation was admitted, where the ledger could not be asked.
    leaseid: Id | None = None
    data: OperationData

    @model_validator(mode="after")
    def _subject_is_account(self) -> "_Event":
        if self.subject != self.data.account_id:
            raise PydanticCustomError("subject_account", "subject and data.account_id differ")
        return self


class OperationRequested(_Event):
    type: Literal["usage.operation.requested.v1"] = REQUESTED_V1
    data: RequestedData


class OperationCompleted(_Event):
    outcome: ClassVar[Literal["completed", "failed"] | None] = "completed"
    type: Literal["usage.operation.completed.v1"] = COMPLETED_V1
    data: CompletedData


class OperationFailed(_Event):
    outcome: ClassVar[Literal["completed", "failed"] | None] = "failed"
    type: Literal["usage.operation.failed.v1"] = FAILED_V1
    data: FailedData


#: Every event version that was ever published, and the model that reads it. An old version stays, and upcasts.
EVENT_MODELS: Final[dict[str, type[_Event]]] = {
    REQUESTED_V1: OperationRequested,
    COMPLETED_V1: OperationCompleted,
    FAILED_V1: OperationFailed,
}


UsageEvent = OperationRequested | OperationCompleted | OperationFailed
_USAGE_EVENT: Final[TypeAdapter[UsageEvent]] = TypeAdapter(Annotated[UsageEvent, Discriminator("type")])


def parse_event(body: bytes) -> UsageEvent:
    """The event in a structured-mode JSON body. Raises pydantic.ValidationError, which names field and rule."""
    event = _USAGE_EVENT.validate_json(body)
    if event.data.metadata is not None or event.model_extra:
        _refuse_what_is_not_json(body)
    return event


def _refuse_what_is_not_json(body: bytes) -> None:
    # In free-form members pydantic takes NaN, Infinity and 1e999, which are not JSON and which no database keeps.
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as error:
        details = InitErrorDetails(type="json_invalid", loc=(), input=None, ctx={"error": str(error)})
        raise ValidationError.from_exception_data("event", [details]) from None


def event_to_json(event: UsageEvent) -> bytes:
    """The event as it goes over the wire; optional fields that are not set are left out."""
    return event.model_dump_json(exclude_none=True, by_alias=True).encode()


class RecordedRanges(_Contract):
    """Ledger → producers: of this source the events with these sequence numbers (inclusive ranges) are committed."""

    source: str
    recorded: list[tuple[int, int]]
