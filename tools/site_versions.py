"""The sites of releases beside the site of the main branch: /v0.2/, /v0.1/, and a switch on every page that needs no network.

    python tools/build_docs.py --release v0.2 && tar czf site-v0.2.tar.gz -C _docs .      # when a release is made
    python tools/build_docs.py && python tools/site_versions.py _docs site-v*.tar.gz      # whenever the site is published

A release keeps the pages that it was made with. Each site has assets/versions.js: which versions there are, and their pages.
"""
import json, re, sys, tarfile
from pathlib import Path

MAIN = 'main'

def pages(site):
    "The pages of one version, without those of versions inside it"
    found = [f.relative_to(site).as_posix() for f in site.rglob('*.html')]
    return sorted(f for f in found if not re.match(r'v\d|assets/', f) and f != '404.html')

def newest_first(names):
    "Versions: the main branch, then releases from the newest"
    number = lambda name: [int(n) for n in re.findall(r'\d+', name)]
    return sorted(names, key=lambda name: (name == MAIN, number(name)), reverse=True)

def write_versions(site, sites, here):
    "Tell the site of version `here`, in the folder `site`, which versions there are: name -> folder"
    # pages are told as differences from this version's own, so that a file stays small
    own = set(pages(site))
    versions = []
    for name in newest_first(sites):
        there = set(pages(sites[name]))
        versions.append(dict(name=name, missing=sorted(own-there), path='' if name == MAIN else f'{name}/'))
    text = json.dumps(dict(here=here, versions=versions))
    (site/'assets').mkdir(parents=True, exist_ok=True)
    (site/'assets/versions.js').write_text(f'window.nbVersions = {text}\n', encoding='utf-8')

def unpack(archive, site):
    "Put the site of a release into its folder; returns its name"
    found = re.fullmatch(r'site-(v\d[\w.]*)\.tar\.gz', Path(archive).name)
    if not found: sys.exit(f'{archive} is not named site-vX.Y.tar.gz')
    with tarfile.open(archive) as tar:
        tar.extractall(site/found[1], filter='data')
    return found[1]

def assemble(site, archives):
    "Put releases beside the main branch, and tell each of all"
    sites = {MAIN: site} | {name: site/name for name in (unpack(a, site) for a in archives)}
    for name, folder in sites.items():
        write_versions(folder, sites, name)
    return sites

def main():
    if len(sys.argv) < 2: sys.exit(__doc__)
    site = Path(sys.argv[1])
    if not (site/'index.html').exists(): sys.exit(f'{site} holds no site: python tools/build_docs.py')
    print('versions:', ', '.join(newest_first(assemble(site, sys.argv[2:]))))

if __name__ == '__main__':
    main()
