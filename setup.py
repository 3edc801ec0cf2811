"""Build the package from settings.ini; edit there, not here."""
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

def words(key):
    return cfg.get(key, '').split()

def lines(key):
    return [o.strip() for o in cfg.get(key, '').splitlines() if o.strip()]

def anywhere(text):
    "Markdown whose links into the repository are whole addresses, as PyPI needs them"
    here = f"{cfg['git_url']}/blob/{cfg['branch']}/"
    raw = f"https://raw.githubusercontent.com/{cfg['user']}/{cfg['repo']}/{cfg['branch']}/"
    text = re.sub(r'(src(?:set)?="|!\[[^\]]*\]\()(?![\w+.-]+:|#|/)', rf'\g<1>{raw}', text)
    return re.sub(r'((?<!!)\[[^\]]*\]\()(?![\w+.-]+:|#|/)', rf'\g<1>{here}', text)

lib = cfg['lib_path']
source = (root/lib/'__init__.py').read_text(encoding='utf-8')
version = re.search(r'^__version__ = "(.+?)"', source, re.M)[1]
readme = (root/'README.md').read_text(encoding='utf-8')
statuses = 'Planning Pre-Alpha Alpha Beta Production/Stable Mature Inactive'.split()
pythons = [f'3.{minor}' for minor in range(int(cfg['min_python'].partition('.')[2]), 14)]
extras = {k.removesuffix('_requirements'): words(k) for k in cfg if k.endswith('_requirements')}

setup(
    name=cfg['lib_name'],
    version=version,
    description=cfg['description'],
    keywords=words('keywords'),
    author=cfg['author'],
    author_email=cfg.get('author_email') or None,
    license=cfg['license'],
    python_requires='>='+cfg['min_python'],
    classifiers=[
        f"Development Status :: {cfg['status']} - {statuses[int(cfg['status'])-1]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        'Operating System :: MacOS',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: {o}' for o in pythons),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed'],
    long_description=anywhere(readme),
    long_description_content_type='text/markdown',
    packages=find_packages(include=[lib, lib+'.*']),
    package_data={lib: lines('package_data')},
    include_package_data=False,
    install_requires=words('requirements'),
    extras_require=extras,
    entry_points=dict(console_scripts=lines('console_scripts'), nbdev=[f'{lib}={lib}._modidx:d']))
