"""Publication lists: what is read of one, what is not, and who can use it."""

import dataclasses
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.config.checks import ConfigError
from rootsrv.config.localroot import LocalRootConfig
from rootsrv.hyperlocal import generated
from rootsrv.localroot.publication import publication_list
from rootsrv.resolvers.publication_list import ListMalformed, PublicationPoint, from_text, is_list, to_text

# The example of the draft, digest and all.
EXAMPLE = """\
http://www.internic.net/domain/root.zone
https://www.internic.net/domain/root.zone
axfr:b.root-servers.net/.
----
SHA256
fba70cbd347741662a3e6c27056d0b8be07b65085633891407e24731c6736307
"""


def test_the_example_of_the_draft_is_read() -> None:
    assert is_list(EXAMPLE)
    https, axfr = from_text(EXAMPLE)  # and plain http is passed over
    assert (https.scheme, https.host, https.port) == ("https", "www.internic.net", 443)
    assert axfr == PublicationPoint("axfr", "b.root-servers.net", 53, ".", "axfr:b.root-servers.net/.")
    assert to_text(EXAMPLE.splitlines()[:3]) == EXAMPLE


LINES = {
    "axfr:192.0.2.1/.": ("axfr", "192.0.2.1", 53, "."),
    "  axfr:192.0.2.1/.\t": ("axfr", "192.0.2.1", 53, "."),
    "AXFR:[2001:db8::1]:5353/Arpa": ("axfr", "2001:db8::1", 5353, "arpa."),
    "ixfr:ns.example.com/example.com.": ("ixfr", "ns.example.com", 53, "example.com."),
    "xot:ns.zone.example:8853/zone.example.": ("xot", "ns.zone.example", 8853, "zone.example."),
    "xot:192.0.2.1/.": ("xot", "192.0.2.1", 853, "."),
    "https://a.example:8443/x/root.zone?v=1": ("https", "a.example", 8443, ""),
    "axfr:192.0.2.1:0/.": None,
    "axfr:192.0.2.1:99999/.": None,
    "axfr:192.0.2.1": None,
    "axfr:/.": None,
    "axfr://192.0.2.1/.": None,
    "ftp://a.example/root.zone": None,
    "rsync:a.example/.": None,
    "https://user@a.example/root.zone": None,
    "https://[broken/root.zone": None,
    "https:///root.zone": None,
    "# axfr:192.0.2.1/.": None,
    "  # axfr:192.0.2.1/.": None,
    "": None,
}


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_a_line_is_read_or_passed_over(line: str) -> None:
    points = from_text(to_text(["axfr:192.0.2.9/.", line]))
    found = [(each.scheme, each.host, each.port, each.zone) for each in points[1:]]
    assert found == ([LINES[line]] if LINES[line] else [])


NO_LISTS = {
    "nothing": "",
    "no_digest": "axfr:192.0.2.1/.\n",
    "cut_at_the_dashes": EXAMPLE.partition("SHA256")[0],
    "cut_at_the_digest": EXAMPLE[:-70],
    "cut_in_the_digest": EXAMPLE[:-8],
    "another_digest": EXAMPLE.replace("SHA256", "CRC32"),
    "a_url_more": "axfr:192.0.2.1/.\n" + EXAMPLE,
    "another_end_of_lines": EXAMPLE.replace("\n", "\r\n"),
    "more_below": EXAMPLE + "axfr:192.0.2.1/.\n",
    "too_much": to_text(["# " + "x" * 1_000_000]),
}


@pytest.mark.parametrize("case", NO_LISTS)
def test_what_is_not_a_whole_list_is_refused(case: str) -> None:
    with pytest.raises(ListMalformed):
        from_text(NO_LISTS[case])


SERVICE = LocalRootConfig(
    name="localroot.example", addresses=("192.0.2.53", "2001:db8::53"), port=5300, https_port=443,
    tls_certificate="c", tls_key="k",
)  # fmt: skip


def test_the_list_of_a_service_is_read_by_hyperlocal_and_the_generator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "publications.txt"
    path.write_text(publication_list(SERVICE, {".": 7, "arpa.": None}))
    listed = generated.read_publishers(path)
    assert [(each.address, each.port, each.url) for each in listed] == [
        ("", 0, "https://localroot.example/root.zone"), ("192.0.2.53", 5300, ""), ("2001:db8::53", 5300, ""),
    ]  # fmt: skip
    config = generated.generate(dataclasses.replace(generated.Options(), publishers=path))
    assert config.primary == listed
    for software in ("unbound", "bind", "kresd"):
        assert main(["resolver", software, "--publications", str(path)]) == 0
        printed = capsys.readouterr().out
        assert ("https://localroot.example/root.zone" in printed) is (software != "bind")
        assert ("192.0.2.53" in printed) is (software != "kresd")


def test_names_are_those_that_are_known_without_a_resolver(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(EXAMPLE)
    shipped = {each.address for each in generated.read_publishers(generated.PUBLISHERS) if "b.root" in each.name}
    listed = generated.read_publishers(path)
    assert {each.address for each in listed if each.address} == shipped
    assert [each.url for each in listed if each.url] == ["https://www.internic.net/domain/root.zone"]


@pytest.mark.parametrize(
    "text",
    [
        to_text(["axfr:nobody.example/."]),
        to_text(["xot:192.0.2.1/.", "axfr:192.0.2.1/arpa."]),
        EXAMPLE[:-3],
        to_text([]),
    ],
)
def test_a_list_without_anything_of_use_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list"
    path.write_text(text)
    with pytest.raises(ConfigError, match="list"):
        generated.read_publishers(path)
