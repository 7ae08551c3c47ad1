"""The bundle holds other authorities and the lab's, once."""

from pathlib import Path

from isthmus.lab import bundling


def test_a_bundle_that_the_shell_names_is_taken(tmp_path: Path) -> None:
    own, other, bundle = tmp_path / "ca.crt", tmp_path / "company.pem", tmp_path / "authorities.pem"
    own.write_text("OWN\n")
    other.write_text("COMPANY\n")
    bundling.write(bundle, own, {"REQUESTS_CA_BUNDLE": str(other)})
    assert bundle.read_text() == "COMPANY\nOWN\n"


def test_a_shell_that_knows_a_lab_does_not_make_the_bundle_grow(tmp_path: Path) -> None:
    own, bundle = tmp_path / "ca.crt", tmp_path / "authorities.pem"
    own.write_text("OWN\n")
    for _ in range(2):
        bundling.write(bundle, own, {"SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)})
    text = bundle.read_text()
    assert text.count("OWN") == 1
    assert "BEGIN CERTIFICATE" in text
