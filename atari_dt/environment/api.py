"""The names of the package `atari_dt.environment`."""

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv, PythonVectorEnv, action_meanings
from atari_dt.environment.rom import Rom, rom_sha256
from atari_dt.environment.vector_env import AleVectorEnv, VectorEnv, make_vector_env

__all__ = [
    "AleEnv",
    "AleVectorEnv",
    "EnvironmentConfig",
    "PythonVectorEnv",
    "Rom",
    "VectorEnv",
    "action_meanings",
    "make_vector_env",
    "rom_sha256",
]
