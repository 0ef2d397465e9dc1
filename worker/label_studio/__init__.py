"""Label Studio's formats: images in, regions out, annotations as class maps.

It knows no Redis, no model and nothing of the service; HTTP only to fetch images (`fetching`).
"""
