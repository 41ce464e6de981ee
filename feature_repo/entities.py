"""What features are about."""

from feast import Entity, ValueType

image = Entity(
    name="image",
    join_keys=["image_id"],
    value_type=ValueType.STRING,
    description="one image of a dataset, by the SHA-256 of its bytes",
)

camera = Entity(
    name="camera",
    join_keys=["camera_id"],
    value_type=ValueType.STRING,
    description="who took the image",
)
