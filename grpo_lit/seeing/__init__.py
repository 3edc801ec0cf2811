"What happened inside a run, to look at and to turn. Names are loaded when they are first used."
from .._window import window

__getattr__, __dir__, __all__ = window(__name__, {
    # each token with its numbers
    '.reading': 'Reading',
    '.readings': 'Readings readings',
    # a page without a kernel, and an inspector with one
    '.page': 'framed page_html write_page',
    '.inspector': 'Inspector inspect',
    # runs side by side
    '.seeds': 'Band band_of seed_difference',
    '.compare': 'compare_runs',
    '.ridges': 'ridges group_spread',
    # a hand on the leash
    '.control': 'Control',
})
