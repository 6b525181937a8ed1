"""ZONEMD digests of the examples in RFC 8976 appendix A."""

import pytest

from rootsrv.wire.name import from_text
from rootsrv.zone import digest, presentation

SIMPLE = """\
example.      86400  IN  SOA     ns1 admin 2018031900 (
                                 1800 900 604800 86400 )
              86400  IN  NS      ns1
              86400  IN  NS      ns2
ns1           3600   IN  A       203.0.113.63
ns2           3600   IN  AAAA    2001:db8::63
"""

# Without the record that is out of the zone, which we refuse to read.
COMPLEX = """\
example.      86400  IN  SOA     ns1 admin 2018031900 (
                                 1800 900 604800 86400 )
              86400  IN  NS      ns1
              86400  IN  NS      ns2
ns1           3600   IN  A       203.0.113.63
NS2           3600   IN  AAAA    2001:db8::63
occluded.sub  7200   IN  TXT     "I'm occluded but must be digested"
sub           7200   IN  NS      ns1
duplicate     300    IN  TXT     "I must be digested just once"
duplicate     300    IN  TXT     "I must be digested just once"
UPPERCASE     3600   IN  TXT     "canonicalize uppercase owner names"
*             777    IN  PTR     dont-forget-about-wildcards
mail          3600   IN  MX      20 MAIL1
mail          3600   IN  MX      10 Mail2.Example.
sortme        3600   IN  AAAA    2001:db8::5:61
sortme        3600   IN  AAAA    2001:db8::3:62
sortme        3600   IN  AAAA    2001:db8::4:63
sortme        3600   IN  AAAA    2001:db8::1:65
sortme        3600   IN  AAAA    2001:db8::2:64
non-apex      900    IN  ZONEMD  2018031900 1 1 (
                                 616c6c6f776564206275742069676e6f
                                 7265642e20616c6c6f77656420627574
                                 2069676e6f7265642e20616c6c6f7765 )
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SIMPLE, "c68090d90a7aed716bc459f9340e3d7c1370d4d24b7e2fc3a1ddc0b9a87153b9a9713b3c9ae5cc27777f98b8e730044c"),
        (COMPLEX, "a3b69bad980a3504e1cffcb0fd6397f93848071c93151f552ae2f6b1711d4bd2d8b39808226d7b9db71e34b72077f8fe"),
    ],
    ids=["A.1", "A.2"],
)
def test_digests_of_the_rfc(text: str, expected: str) -> None:
    contents = presentation.from_text(text.encode(), from_text("example."))

    assert digest.compute(contents, 1).hex() == expected
    assert digest.zonemd_rdata(contents, 1).hex() == f"{2018031900:08x}0101{expected}"
