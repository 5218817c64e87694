"""LanguageModel, the front end for text: trains, measures, scores, generates and saves."""

from .contents import BackendOptions
from .fitting import Prepared
from .language_model import LanguageModel

__all__ = ["BackendOptions", "LanguageModel", "Prepared"]
