"""BlazeFace, the face detector that comes with the package.

Two networks of Google's MediaPipe, unmodified (see ORIGIN.md): `short_range.tflite` for faces that
fill a quarter of the picture or more, `full_range.tflite` for smaller ones. Bazarevsky et al.,
"BlazeFace: Sub-millisecond neural face detection on mobile GPUs", 2019.
"""
