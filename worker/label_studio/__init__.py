"""Label Studio's formats: images in, regions out, annotations as class maps.

It must not depend on Redis, on a loaded model or on the service. HTTP is used to fetch images only (`fetching`).
"""
