"""Where feature rows live in the object store, and the names that both sides use."""

QUALITY_PREFIX = "features/image_quality/"
CAMERA_PREFIX = "features/camera_profile/"
TRAINING_SERVICE = "plates_training_v1"
SERVING_SERVICE = "plates_serving_v1"
# An image that says nothing of when it was taken happened at this moment for Feast, which needs
# an event time in every row: earlier than any label, so such a row is always joined.
UNDATED = "2000-01-01T00:00:00Z"
