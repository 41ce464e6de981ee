"""SafeLicensing's library: every computation and every decision of the platform."""

__version__ = "0.1.0"
