"""Trains, runs and explains neural machine translation with attention."""

__version__ = "0.1.0"

# Type checkers take a name TYPE_CHECKING for true; the module typing would have to be imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from nmt.api.experiments import TrainingRun, evaluate, train
    from nmt.api.results import AlignmentResult, ScoreResult, TranslationResult
    from nmt.api.text_classifier import TextClassifier, load_classifier
    from nmt.api.text_translator import TextTranslator, load

__all__ = [
    "AlignmentResult",
    "ScoreResult",
    "TextClassifier",
    "TextTranslator",
    "TrainingRun",
    "TranslationResult",
    "__version__",
    "evaluate",
    "load",
    "load_classifier",
    "train",
]

_MODULES = {
    "AlignmentResult": "results",
    "ScoreResult": "results",
    "TextClassifier": "text_classifier",
    "TextTranslator": "text_translator",
    "TrainingRun": "experiments",
    "TranslationResult": "results",
    "evaluate": "experiments",
    "load": "text_translator",
    "load_classifier": "text_classifier",
    "train": "experiments",
}
"""Where the names of the API are defined. PyTorch is imported when the first of them is used."""

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"nmt.api.{_MODULES[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
