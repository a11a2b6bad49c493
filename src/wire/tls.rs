//! TLS by rustls: the files of the configuration become something that encrypts, towards clients and towards servers.
//!
//! The modes towards servers mean what libpq's `sslmode` means, with two differences: `require` never verifies anything,
//! whether a root certificate is given or not, and `prefer` goes on in the clear only when the server says that it has no
//! TLS, not when a handshake fails. Names are looked up in the subject alternative names only, never in the common name,
//! and a certificate that is an authority of its own (`CA:TRUE`) is not accepted as a server's.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::{Certificate, ClientTls, ServerTls, SslMode};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not valid PEM: {reason}", path.display())]
    Pem { path: PathBuf, reason: String },
    #[error("{} holds no certificate (no -----BEGIN CERTIFICATE-----)", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no private key (no unencrypted -----BEGIN PRIVATE KEY-----)", path.display())]
    NoKey { path: PathBuf },
    #[error("the certificate {} and the key {} cannot be used together: {source}", certificate.display(), key.display())]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("{} holds a root certificate that cannot be used: {source}", path.display())]
    Root {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("the modes verify-ca and verify-full need a root certificate")]
    RootMissing,
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// TLS towards clients, ready to use.
#[derive(Clone)]
pub enum ClientEncryption {
    Disable,
    Prefer(Acceptor),
    Require(Acceptor),
}

/// Makes us the server of a TLS connection.
#[derive(Clone)]
pub struct Acceptor {
    acceptor: TlsAcceptor,
    /// What clients see, as PEM; channel binding is made from it.
    certificate: Arc<[u8]>,
}

impl ClientEncryption {
    /// Reads the files. Blocks.
    pub fn load(configured: &ClientTls) -> Result<Self, TlsError> {
        Ok(match configured {
            ClientTls::Disable => ClientEncryption::Disable,
            ClientTls::Prefer(certificate) => {
                ClientEncryption::Prefer(Acceptor::load(certificate)?)
            }
            ClientTls::Require(certificate) => {
                ClientEncryption::Require(Acceptor::load(certificate)?)
            }
        })
    }

    pub(crate) fn certificate_pem(&self) -> Option<&[u8]> {
        match self {
            ClientEncryption::Disable => None,
            ClientEncryption::Prefer(acceptor) | ClientEncryption::Require(acceptor) => {
                Some(&acceptor.certificate)
            }
        }
    }
}

impl Acceptor {
    fn load(files: &Certificate) -> Result<Self, TlsError> {
        let pem = read(&files.certificate)?;
        let chain = certificates(&pem, &files.certificate)?;
        let key = private_key(&files.key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|source| TlsError::Pair {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                source,
            })?;
        // As in Postgres: its clients never resume a session, so tickets are work and bytes for nothing.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Acceptor {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate: pem.into(),
        })
    }

    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
    ) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        self.acceptor.accept(socket).await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

/// TLS towards servers, ready to use.
#[derive(Clone, Debug)]
pub enum ServerEncryption {
    Disable,
    /// If the server can.
    Prefer(Connector),
    /// Or no connection; the connector says what is verified.
    Require(Connector),
}

/// Makes us the client of a TLS connection.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
    name: NameCheck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameCheck {
    Verified,
    Ignored,
}

impl ServerEncryption {
    /// Reads the files. Blocks.
    pub fn load(configured: &ServerTls) -> Result<Self, TlsError> {
        let verified = |name| -> Result<Connector, TlsError> {
            let path = configured
                .root_certificate
                .as_deref()
                .ok_or(TlsError::RootMissing)?;
            Connector::verifying(roots(path)?, name)
        };
        Ok(match configured.mode {
            SslMode::Disable => ServerEncryption::Disable,
            SslMode::Prefer => ServerEncryption::Prefer(Connector::trusting()?),
            SslMode::Require => ServerEncryption::Require(Connector::trusting()?),
            SslMode::VerifyCa => ServerEncryption::Require(verified(NameCheck::Ignored)?),
            SslMode::VerifyFull => ServerEncryption::Require(verified(NameCheck::Verified)?),
        })
    }
}

impl Connector {
    /// Encrypts without asking who is there.
    fn trusting() -> Result<Self, TlsError> {
        let verifier = Verifier {
            trust: Trust::Any,
            provider: provider(),
        };
        Connector::with_verifier(Arc::new(verifier), NameCheck::Ignored)
    }

    fn verifying(roots: RootCertStore, name: NameCheck) -> Result<Self, TlsError> {
        let verifier: Arc<dyn ServerCertVerifier> = match name {
            NameCheck::Verified => {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                    .build()
                    .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?
            }
            NameCheck::Ignored => Arc::new(Verifier {
                trust: Trust::Chain(roots),
                provider: provider(),
            }),
        };
        Connector::with_verifier(verifier, name)
    }

    fn with_verifier(
        verifier: Arc<dyn ServerCertVerifier>,
        name: NameCheck,
    ) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Connector {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    /// `host` as configured: a name or an address.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        socket: S,
    ) -> io::Result<tokio_rustls::client::TlsStream<S>> {
        let name = match (ServerName::try_from(host.to_owned()), self.name) {
            (Ok(name), _) => name,
            (Err(error), NameCheck::Verified) => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
            // The name is not a DNS name, and it is not going to be compared: rustls only wants one, and sends no address.
            (Err(_), NameCheck::Ignored) => ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()),
        };
        self.connector.connect(name, socket).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Verifies less than rustls would by itself, as some modes of libpq do. That the server holds the certificate's key is verified always.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Trust {
    /// `prefer` and `require`: any certificate will do.
    Any,
    /// `verify-ca`: it must come from one of these; the name in it does not matter.
    Chain(RootCertStore),
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Trust::Chain(roots) = &self.trust {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(certificate)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey {
            path: path.to_owned(),
        },
        other => TlsError::Pem {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&read(path)?, path)? {
        roots.add(certificate).map_err(|source| TlsError::Root {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
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
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
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

/// Certificates for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};
    use tempfile::TempDir;

    use super::*;

    /// A root that signs certificates into files.
    pub(crate) struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pub(crate) directory: TempDir,
    }

    impl Authority {
        pub(crate) fn new() -> Self {
            let directory = TempDir::new().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            std::fs::write(
                directory.path().join("root.pem"),
                params.self_signed(&key).unwrap().pem(),
            )
            .unwrap();
            Authority {
                issuer: Issuer::new(params, key),
                directory,
            }
        }

        pub(crate) fn root(&self) -> PathBuf {
            self.directory.path().join("root.pem")
        }

        /// A new certificate for these names and addresses.
        pub(crate) fn issue(&self, names: &[&str]) -> Certificate {
            self.issue_with(names, &rcgen::PKCS_ECDSA_P256_SHA256)
        }

        pub(crate) fn issue_with(
            &self,
            names: &[&str],
            algorithm: &'static SignatureAlgorithm,
        ) -> Certificate {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
            let signed = CertificateParams::new(names)
                .unwrap()
                .signed_by(&key, &self.issuer)
                .unwrap();
            let files = Certificate {
                certificate: self.directory.path().join("server.pem"),
                key: self.directory.path().join("server.key"),
            };
            std::fs::write(&files.certificate, signed.pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            files
        }

        /// For a server of ours.
        pub(crate) fn offered(&self, names: &[&str]) -> ClientEncryption {
            ClientEncryption::load(&ClientTls::Prefer(self.issue(names))).unwrap()
        }

        /// For a client of ours.
        pub(crate) fn trusted(&self, mode: SslMode) -> ServerEncryption {
            ServerEncryption::load(&ServerTls {
                mode,
                root_certificate: Some(self.root()),
            })
            .unwrap()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::Authority;
    use super::*;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    /// Whether a client of this mode accepts the server as `host`.
    async fn handshake(
        offered: &ClientEncryption,
        trusted: &ServerEncryption,
        host: &str,
    ) -> io::Result<()> {
        let ClientEncryption::Prefer(acceptor) = offered else {
            panic!()
        };
        let (ServerEncryption::Prefer(connector) | ServerEncryption::Require(connector)) = trusted
        else {
            panic!()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let client = async {
            connector
                .connect(host, TcpStream::connect(address).await.unwrap())
                .await
        };
        let (server, client) = tokio::join!(server, client);
        client?;
        server.map(|_| ())
    }

    #[tokio::test]
    async fn the_modes_verify_what_libpq_verifies() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let offered = authority.offered(&["db.example", "127.0.0.1"]);
        let cases = [
            // mode, whose root is trusted, name, accepted
            (SslMode::Prefer, &stranger, "db.example", true),
            (SslMode::Require, &stranger, "other.example", true),
            (SslMode::Require, &stranger, "not a dns name!", true),
            (SslMode::VerifyCa, &authority, "db.example", true),
            (SslMode::VerifyCa, &authority, "other.example", true),
            (SslMode::VerifyCa, &authority, "not a dns name!", true),
            (SslMode::VerifyCa, &stranger, "db.example", false),
            (SslMode::VerifyFull, &authority, "db.example", true),
            (SslMode::VerifyFull, &authority, "127.0.0.1", true),
            (SslMode::VerifyFull, &authority, "other.example", false),
            (SslMode::VerifyFull, &authority, "127.0.0.2", false),
            (SslMode::VerifyFull, &stranger, "db.example", false),
        ];
        for (mode, root, host, accepted) in cases {
            let outcome = handshake(&offered, &root.trusted(mode), host).await;
            assert_eq!(outcome.is_ok(), accepted, "{mode:?} {host}: {outcome:?}");
        }
        // This one never gets as far as a handshake.
        let ServerEncryption::Require(connector) = authority.trusted(SslMode::VerifyFull) else {
            panic!()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        assert_eq!(
            connector
                .connect("not a dns name!", socket)
                .await
                .unwrap_err()
                .kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn errors_name_the_file() {
        let authority = Authority::new();
        let good = authority.issue(&["localhost"]);
        let path = |name: &str| authority.directory.path().join(name);
        std::fs::write(path("empty.pem"), "").unwrap();
        std::fs::write(
            path("broken.pem"),
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let other_key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(path("other.key"), other_key).unwrap();
        let load = |certificate: PathBuf, key: PathBuf| {
            ClientEncryption::load(&ClientTls::Require(Certificate { certificate, key }))
                .err()
                .unwrap()
                .to_string()
        };
        let cases = [
            (
                load(path("none.pem"), good.key.clone()),
                "none.pem",
                "cannot read",
            ),
            (
                load(path("empty.pem"), good.key.clone()),
                "empty.pem",
                "holds no certificate",
            ),
            (
                load(path("broken.pem"), good.key.clone()),
                "broken.pem",
                "not valid PEM",
            ),
            (
                load(good.key.clone(), good.key.clone()),
                "server.key",
                "holds no certificate",
            ),
            (
                load(good.certificate.clone(), good.certificate.clone()),
                "server.pem",
                "holds no private key",
            ),
            (
                load(good.certificate.clone(), path("other.key")),
                "other.key",
                "cannot be used together",
            ),
        ];
        for (error, file, reason) in cases {
            assert!(error.contains(file) && error.contains(reason), "{error}");
        }
        let servers = |mode, root_certificate| {
            ServerEncryption::load(&ServerTls {
                mode,
                root_certificate,
            })
            .map(|_| ())
            .map_err(|error| error.to_string())
        };
        assert!(
            servers(SslMode::VerifyCa, None)
                .unwrap_err()
                .contains("need a root certificate")
        );
        assert!(
            servers(SslMode::VerifyFull, Some(path("none.pem")))
                .unwrap_err()
                .contains("none.pem")
        );
        assert_eq!(servers(SslMode::Require, None), Ok(()));
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
            let mut sequence = vec![0x30, 0x82, 0x00, 0x40];
            sequence.extend(bytes);
            let _ = signature_algorithm(&sequence);
        }
    }
}
