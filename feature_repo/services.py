"""Which features are asked for together."""

from feast import FeatureService
from feature_views import camera_profile, exposure_class, image_quality

plates_training_v1 = FeatureService(
    name="plates_training_v1",
    features=[image_quality, exposure_class],
    description="what the selection of a training set looks at",
)

plates_serving_v1 = FeatureService(
    name="plates_serving_v1",
    features=[camera_profile],
    description="how the endpoint treats a camera's images",
)
