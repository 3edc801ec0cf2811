# made by tools/stubs.py: edit the source, then run it
from .reading import Reading as Reading
from .readings import Readings as Readings
from .readings import readings as readings
from .page import framed as framed
from .page import page_html as page_html
from .page import write_page as write_page
from .inspector import Inspector as Inspector
from .inspector import inspect as inspect
from .seeds import Band as Band
from .seeds import band_of as band_of
from .seeds import seed_difference as seed_difference
from .compare import compare_runs as compare_runs
from .ridges import ridges as ridges
from .ridges import group_spread as group_spread
from .control import Control as Control

__all__ = [
    'Reading',
    'Readings',
    'readings',
    'framed',
    'page_html',
    'write_page',
    'Inspector',
    'inspect',
    'Band',
    'band_of',
    'seed_difference',
    'compare_runs',
    'ridges',
    'group_spread',
    'Control']
