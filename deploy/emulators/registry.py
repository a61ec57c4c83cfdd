"""Every emulator: one line each."""

from typing import Final

from deploy.emulators.emulation import Provider
from deploy.emulators.gemini import Gemini
from deploy.emulators.huggingface import HuggingFace
from deploy.emulators.openai import OpenAI
from deploy.emulators.stability import Stability
from deploy.emulators.wavespeed import WaveSpeed

PROVIDERS: Final[tuple[type[Provider], ...]] = (
    WaveSpeed,
    Stability,
    OpenAI,
    Gemini,
    HuggingFace,
)
