//! What is read out of certificates: whom a client's names, and what SCRAM binds to a server's.
//!
//! Only as much DER is read as that takes (RFC 5280 section 4.1); what has another shape gives nothing.

use ring::digest;
use rustls::pki_types::CertificateDer;

/// A client's certificate. It has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Of its subject; `None` when there is none, several, or one that is not plain text.
    pub common_name: Option<String>,
}

impl ClientCertificate {
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Self {
        ClientCertificate {
            common_name: common_name(certificate),
        }
    }
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[0] EXPLICIT`: the version.
const VERSION: u8 = 0xa0;
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// UTF8String, PrintableString, IA5String: all of them read as UTF-8.
const PLAIN_TEXT: [u8; 3] = [0x0c, 0x13, 0x16];

/// The only common name of the subject.
fn common_name(certificate: &[u8]) -> Option<String> {
    let (whole, _) = der_element(certificate, SEQUENCE)?;
    let (mut rest, _) = der_element(whole, SEQUENCE)?;
    if let Some((_, behind)) = der_element(rest, VERSION) {
        rest = behind;
    }
    // Serial number, signature's algorithm, issuer, validity; then the subject.
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE] {
        (_, rest) = der_element(rest, tag)?;
    }
    let (mut names, _) = der_element(rest, SEQUENCE)?;
    let mut found = None;
    while !names.is_empty() {
        let (mut set, behind) = der_element(names, SET)?;
        names = behind;
        while !set.is_empty() {
            let (attribute, next) = der_element(set, SEQUENCE)?;
            set = next;
            let (kind, value) = der_element(attribute, OBJECT_IDENTIFIER)?;
            if kind != COMMON_NAME {
                continue;
            }
            let tag = *value.first().filter(|tag| PLAIN_TEXT.contains(tag))?;
            let text = str::from_utf8(der_element(value, tag)?.0).ok()?;
            if found.is_some() || text.is_empty() || text.contains('\0') {
                return None;
            }
            found = Some(text.to_owned());
        }
    }
    found
}

/// What SCRAM binds to a TLS connection (`tls-server-end-point`, RFC 5929 section 4): the hash of the server's certificate,
/// made with the hash of the certificate's own signature; SHA-256 where that is MD5 or SHA-1.
///
/// `None` where the RFC defines none (Ed25519) or names the hash elsewhere (RSA-PSS): there is then no channel binding.
pub(crate) fn server_end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let algorithm = match signature_algorithm(certificate)? {
        // 1.2.840.113549.1.1: RSA with MD5, SHA-1, SHA-256; then SHA-384; then SHA-512
        [
            0x2a,
            0x86,
            0x48,
            0x86,
            0xf7,
            0x0d,
            0x01,
            0x01,
            0x04 | 0x05 | 0x0b,
        ] => &digest::SHA256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c] => &digest::SHA384,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d] => &digest::SHA512,
        // 1.2.840.10045.4: ECDSA with SHA-1; and in .3 with SHA-256, SHA-384, SHA-512
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01]
        | [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02] => &digest::SHA256,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03] => &digest::SHA384,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04] => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// The object identifier in `Certificate.signatureAlgorithm.algorithm` (RFC 5280 section 4.1).
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (whole, _) = der_element(certificate, SEQUENCE)?;
    let (_to_be_signed, rest) = der_element(whole, SEQUENCE)?;
    let (algorithm, _) = der_element(rest, SEQUENCE)?;
    Some(der_element(algorithm, OBJECT_IDENTIFIER)?.0)
}

/// The content of the first DER element of `input`, which must have this tag, and what follows the element.
fn der_element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = input.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if !(1..=4).contains(&bytes.len()) {
            return None;
        }
        (
            bytes
                .iter()
                .fold(0usize, |length, &byte| length << 8 | usize::from(byte)),
            rest,
        )
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::wire::tls::fixtures::Authority;

    fn named(names: &[&str]) -> Option<String> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "somebody");
        for (at, name) in names.iter().enumerate() {
            // A second name of a kind takes the place of the first here, so it gets a kind that becomes the same.
            let kind = match at {
                0 => rcgen::DnType::CommonName,
                _ => rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]),
            };
            params.distinguished_name.push(kind, *name);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        ClientCertificate::read(params.self_signed(&key).unwrap().der()).common_name
    }

    #[test]
    fn the_common_name_of_the_subject() {
        assert_eq!(named(&["ann"]).as_deref(), Some("ann"));
        assert_eq!(named(&["p\u{e4}ule x"]).as_deref(), Some("p\u{e4}ule x"));
        assert_eq!(named(&[]), None);
        assert_eq!(named(&["ann", "bob"]), None, "two names are no name");
        assert_eq!(named(&["ann\0bob"]), None);
    }

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_is_signed() {
        // A root signs with its own key: these certificates carry the signature of P-256 with SHA-256.
        let authority = Authority::new();
        let files = authority.issue(&["localhost"]);
        let certificate = CertificateDer::from_pem_file(&files.certificate).unwrap();
        let sha256 = digest::digest(&digest::SHA256, &certificate);
        assert_eq!(
            server_end_point(&certificate).as_deref(),
            Some(sha256.as_ref())
        );

        let signed_by_itself = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            rcgen::CertificateParams::default()
                .self_signed(&key)
                .unwrap()
                .der()
                .clone()
        };
        let certificate = signed_by_itself(&rcgen::PKCS_ECDSA_P384_SHA384);
        let sha384 = digest::digest(&digest::SHA384, &certificate);
        assert_eq!(
            server_end_point(&certificate).as_deref(),
            Some(sha384.as_ref())
        );
        assert_eq!(
            server_end_point(&signed_by_itself(&rcgen::PKCS_ED25519)),
            None
        );
    }

    #[test]
    fn each_signature_algorithm_has_its_hash() {
        // DER of the identifiers as `openssl asn1parse` shows them in certificates.
        let rsa = |last: u8| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last].to_vec();
        let ecdsa = |last: u8| [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, last].to_vec();
        for (algorithm, hash_length) in [
            (rsa(0x04), Some(32)), // md5WithRSAEncryption
            (rsa(0x05), Some(32)), // sha1WithRSAEncryption
            (rsa(0x0a), None),     // RSASSA-PSS
            (rsa(0x0b), Some(32)), // sha256WithRSAEncryption
            (rsa(0x0c), Some(48)),
            (rsa(0x0d), Some(64)),
            ([0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1].to_vec(), Some(32)), // ecdsa-with-SHA1
            (ecdsa(2), Some(32)),
            (ecdsa(3), Some(48)),
            (ecdsa(4), Some(64)),
        ] {
            let length = algorithm.len() as u8;
            let identifier = [&[0x30, length + 4, 6, length], &algorithm[..], &[5, 0]].concat();
            let content = [&[0x30, 0x81, 0x01, 0xff], &identifier[..]].concat();
            let whole = [&[0x30, content.len() as u8], &content[..]].concat();
            let hash = server_end_point(&CertificateDer::from(whole));
            assert_eq!(hash.map(|hash| hash.len()), hash_length, "{algorithm:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_certificate_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = signature_algorithm(&bytes);
            let _ = common_name(&bytes);
            let mut sequence = vec![0x30, 0x82, 0x00, 0x40];
            sequence.extend(bytes);
            let _ = signature_algorithm(&sequence);
            let _ = common_name(&sequence);
            sequence.splice(4..4, [0x30, 0x82, 0x00, 0x3c, 0x02, 0x01, 0x01, 0x30, 0x00, 0x30, 0x00, 0x30, 0x00]);
            let _ = common_name(&sequence);
        }
    }
}
