"""The commands of `platecrypt`, by what they are about: thin, like the roof they stand on."""
