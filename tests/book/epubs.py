"""What is wrong with an EPUB file, as far as Python itself can see: the container, the package, every link and id.

The outcome was compared with W3C's EPUBCheck 5.3, which finds nothing either in the e-book of this site.
"""

from __future__ import annotations

import posixpath
import zipfile
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

MATHML, SVG = "{http://www.w3.org/1998/Math/MathML}math", "{http://www.w3.org/2000/svg}svg"
OPF = "{http://www.idpf.org/2007/opf}"
XHTML = "{http://www.w3.org/1999/xhtml}"
XLINK = "{http://www.w3.org/1999/xlink}href"


def problems(path: Path) -> list[str]:
    found: list[str] = []
    with zipfile.ZipFile(path) as files:
        first = files.infolist()[0]
        if (first.filename, first.compress_type) != ("mimetype", zipfile.ZIP_STORED):
            return ["mimetype is not first, or it is packed"]
        if files.read("mimetype") != b"application/epub+zip":
            found.append("mimetype says something else")
        container = ET.fromstring(files.read("META-INF/container.xml"))
        opf = next(tag.get("full-path") for tag in container.iter() if tag.tag.endswith("rootfile"))
        assert opf is not None
        home = posixpath.dirname(opf)
        package = ET.fromstring(files.read(opf))
        items = {tag.get("id"): tag for tag in package.iter(OPF + "item")}
        names = {posixpath.join(home, tag.get("href", "")) for tag in items.values()}
        inside = {name for name in files.namelist() if name.startswith(home + "/")} - {opf}
        found += [f"{name} is listed and not there" for name in sorted(names - inside)]
        found += [f"{name} is there and not listed" for name in sorted(inside - names)]
        order = [tag.get("idref") for tag in package.iter(OPF + "itemref")]
        found += [f"the order names {name}, which is not listed" for name in order if name not in items]
        if len([tag for tag in items.values() if "nav" in (tag.get("properties") or "").split()]) != 1:
            found.append("there is no one list of contents")
        trees: dict[str, ET.Element] = {}
        for tag in items.values():
            if tag.get("media-type") == "application/xhtml+xml":
                name = posixpath.join(home, tag.get("href", ""))
                try:
                    trees[name] = ET.fromstring(files.read(name))
                except ET.ParseError as error:
                    found.append(f"{name} is no XML: {error}")
                    continue
                has = {t.tag for t in trees[name].iter()}
                for kind, mark in (("mathml", MATHML), ("svg", SVG)):
                    if (mark in has) != (kind in (tag.get("properties") or "").split()):
                        found.append(f"{name} has {kind}, or says so, and not both")
        ids: dict[str, set[str]] = {}
        for name, tree in trees.items():
            ids[name] = set()
            for tag in tree.iter():
                if (here := tag.get("id")) is not None:
                    if here in ids[name]:
                        found.append(f"{name} has {here} twice")
                    ids[name].add(here)
        for name, tree in trees.items():
            for tag in tree.iter():
                if tag.tag in (XHTML + "script", XHTML + "style"):
                    found.append(f"{name} has a script or a style in its text")
                for key in ("href", "src", XLINK):
                    if (value := tag.get(key)) is None or value.startswith("data:"):
                        continue
                    if "://" in value or value.startswith("mailto:"):
                        if tag.tag not in (XHTML + "a",):
                            found.append(f"{name} loads {value} from elsewhere")
                        continue
                    address, _, anchor = unquote(value).partition("#")
                    to = posixpath.normpath(posixpath.join(posixpath.dirname(name), address)) if address else name
                    if to not in names:
                        found.append(f"{name}: {value} is not there")
                    elif anchor and anchor not in ids.get(to, set()):
                        found.append(f"{name}: {value} is not there")
    return found
