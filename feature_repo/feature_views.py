"""The features: how good an image is, how a camera is treated, how an image is exposed."""

from datetime import timedelta

import pandas as pd
from entities import camera, image
from feast import FeatureView, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from sources import camera_profile_source, image_quality_source

FOREVER = timedelta(0)

image_quality = FeatureView(
    name="image_quality",
    entities=[image],
    ttl=FOREVER,
    schema=[
        Field(name="brightness", dtype=Float64, description="mean luma, 0 to 255"),
        Field(name="contrast", dtype=Float64, description="standard deviation of luma"),
        Field(name="sharpness", dtype=Float64, description="variance of the Laplacian at 640 px"),
        Field(name="saturation", dtype=Float64, description="mean HSV saturation, 0 to 255"),
        Field(name="width", dtype=Int64, description="pixels"),
        Field(name="height", dtype=Int64, description="pixels"),
        Field(name="plate_count", dtype=Int64, description="labelled plates"),
        Field(name="smallest_plate", dtype=Float64, description="its width in pixels, 0: none"),
    ],
    source=image_quality_source,
    online=True,
)

camera_profile = FeatureView(
    name="camera_profile",
    entities=[camera],
    ttl=FOREVER,
    schema=[
        Field(name="confidence", dtype=Float64, description="threshold for a detection, 0 to 1"),
        Field(name="margin", dtype=Float64, description="of a region, as a share of its size"),
        Field(name="policy", dtype=String, description="what is done with a plate"),
        Field(name="mean_brightness", dtype=Float64, description="over the camera's images"),
        Field(name="images", dtype=Int64, description="how many images it took"),
    ],
    source=camera_profile_source,
    online=True,
)


@on_demand_feature_view(
    sources=[image_quality],
    schema=[Field(name="exposure", dtype=String)],  # a description here fails its own inference
    mode="pandas",
)
def exposure_class(features: pd.DataFrame) -> pd.DataFrame:
    """The exposure class of an image, from its brightness."""
    import pandas as pd

    from platecrypt.features.quality import exposure

    return pd.DataFrame({"exposure": [exposure(value) for value in features["brightness"]]})
