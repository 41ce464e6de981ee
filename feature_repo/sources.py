"""Where the features are kept: parquet in the object store."""

from feast import FileSource

from platecrypt.features.layout import CAMERA_PREFIX, QUALITY_PREFIX
from platecrypt.settings import load

_settings = load()

image_quality_source = FileSource(
    name="image_quality_source",
    path=f"s3://{_settings.s3_bucket}/{QUALITY_PREFIX}",
    s3_endpoint_override=_settings.s3_url,
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)

camera_profile_source = FileSource(
    name="camera_profile_source",
    path=f"s3://{_settings.s3_bucket}/{CAMERA_PREFIX}",
    s3_endpoint_override=_settings.s3_url,
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)
