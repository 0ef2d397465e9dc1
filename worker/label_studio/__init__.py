"""Label Studio's formats: images in, regions out."""
