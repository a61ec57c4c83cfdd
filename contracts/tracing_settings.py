"""Settings about traces, the same in both services."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints


class TracingSettings(BaseModel):
    #: Where spans go: the base URL of an OTLP receiver (http/protobuf), as every OpenTelemetry SDK takes it, from
    #: OTEL_EXPORTER_OTLP_ENDPOINT. None: no spans; the traces of callers are carried on all the same.
    otlp_endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")] | None = Field(
        default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    #: Of the traces that begin here, so many are sampled. Where a caller began one, it has decided.
    traces_ratio: float = Field(default=1.0, ge=0, le=1)
