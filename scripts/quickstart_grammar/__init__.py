"""The grammar and the lexicon behind `data/quickstart`: the same sentence, said in English and in German.

`tree` holds what a sentence means, `english` and `german` say it, `compose` invents one, `corpus` arranges
documents and splits. Words live in `nouns`, `verbs` and `modifiers`.
"""
