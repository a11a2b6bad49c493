//! TLS by rustls: the files of the configuration become something that encrypts, towards clients and towards servers.
//!
//! The modes towards servers mean what libpq's `sslmode` means, with two differences: `require` never verifies anything,
//! whether a root certificate is given or not, and `prefer` goes on in the clear only when the server says that it has no
//! TLS, not when a handshake fails. Names are looked up in the subject alternative names only, never in the common name,
//! and a certificate that is an authority of its own (`CA:TRUE`) is not accepted as a server's, nor as a client's.
//!
//! Read `certificate.rs` for what is read out of certificates.

mod certificate;

pub use certificate::ClientCertificate;
pub(crate) use certificate::server_end_point;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::socket::Socket;
use crate::config::{ClientTls, Offer, ServerTls, SslMode};

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
    #[error("{} holds no authority for clients' certificates that can be used: {reason}", path.display())]
    Authorities { path: PathBuf, reason: String },
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
    files: Arc<Files>,
}

/// What an acceptor was made from.
#[derive(PartialEq)]
struct Files {
    /// What clients see, as PEM; channel binding is made from it.
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Option<Vec<u8>>,
}

/// What clients name that speak TLS from the first byte (Postgres 17).
const APPLICATION_PROTOCOL: &[u8] = b"postgresql";

impl ClientEncryption {
    /// Reads the files. Blocks. While they are the same as `before`, so is the acceptor, and clients can resume their sessions.
    pub fn load(configured: &ClientTls, before: Option<&Self>) -> Result<Self, TlsError> {
        let before = before.and_then(Self::acceptor);
        Ok(match configured {
            ClientTls::Disable => ClientEncryption::Disable,
            ClientTls::Prefer(offer) => ClientEncryption::Prefer(Acceptor::load(offer, before)?),
            ClientTls::Require(offer) => ClientEncryption::Require(Acceptor::load(offer, before)?),
        })
    }

    fn acceptor(&self) -> Option<&Acceptor> {
        match self {
            ClientEncryption::Disable => None,
            ClientEncryption::Prefer(acceptor) | ClientEncryption::Require(acceptor) => {
                Some(acceptor)
            }
        }
    }

    pub(crate) fn certificate_pem(&self) -> Option<&[u8]> {
        self.acceptor()
            .map(|acceptor| &acceptor.files.certificate[..])
    }
}

impl Files {
    fn read(offer: &Offer) -> Result<Files, TlsError> {
        Ok(Files {
            certificate: read(&offer.certificate.certificate)?,
            key: read(&offer.certificate.key)?,
            client_authorities: offer.client_authorities.as_deref().map(read).transpose()?,
        })
    }
}

/// Most bytes of a TLS record towards clients, as Postgres sends them. libpq reads at least so much at once; of a larger record the rest
/// stays inside OpenSSL, where a client that waits for its socket does not see it, and waits for ever.
const LARGEST_RECORD: usize = 8192;

impl Acceptor {
    fn load(offer: &Offer, before: Option<&Acceptor>) -> Result<Self, TlsError> {
        let files = Files::read(offer)?;
        if let Some(before) = before.filter(|before| *before.files == files) {
            return Ok(before.clone());
        }
        let pair = &offer.certificate;
        let chain = certificates(&files.certificate, &pair.certificate)?;
        let key = private_key(&files.key, &pair.key)?;
        let authorities = offer
            .client_authorities
            .as_deref()
            .zip(files.client_authorities.as_deref());
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some((path, pem)) => {
                // Whether there must be a certificate depends on who asks for what, and is said in words instead of an alert.
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots(pem, path)?),
                    provider(),
                )
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Authorities {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|source| TlsError::Pair {
                certificate: pair.certificate.clone(),
                key: pair.key.clone(),
                source,
            })?;
        config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
        config.max_fragment_size = Some(LARGEST_RECORD);
        // Sessions are kept by the clients, in tickets: they cost no memory here. A client's certificate is verified anew
        // each time, so where there may be one nothing is resumed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if authorities.is_none() {
            config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(TlsError::Setup)?;
            config.send_tls13_tickets = 1;
        }
        Ok(Acceptor {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            files: Arc::new(files),
        })
    }

    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
    ) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        self.acceptor.accept(socket).await
    }

    /// Goes on with a connection whose handshake has been done.
    pub(crate) async fn resume(
        &self,
        socket: Socket,
        done: ServerConnection,
    ) -> io::Result<tokio_rustls::server::TlsStream<Socket>> {
        // A stream is made with a connection of its own, which gives way to the one that has the keys.
        let put_in = |fresh: &mut ServerConnection| *fresh = done;
        self.acceptor.accept_with(socket, put_in).await
    }
}

/// Whether the client has named the protocol it wants, and so wants ours: others end the handshake.
pub(crate) fn protocol_is_named(stream: &tokio_rustls::server::TlsStream<Socket>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(APPLICATION_PROTOCOL)
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
            Connector::verifying(roots(&read(path)?, path)?, name)
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

fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey {
            path: path.to_owned(),
        },
        other => TlsError::Pem {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    })
}

fn roots(pem: &[u8], path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|source| TlsError::Root {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(roots)
}

/// Certificates for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};
    use tempfile::TempDir;

    use super::*;
    use crate::config::{Certificate, CertificateDemand};

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

        pub(crate) fn offer(&self, names: &[&str]) -> Offer {
            Offer {
                certificate: self.issue(names),
                client_authorities: None,
                demand: CertificateDemand::Nothing,
            }
        }

        /// For a server of ours.
        pub(crate) fn offered(&self, names: &[&str]) -> ClientEncryption {
            ClientEncryption::load(&ClientTls::Prefer(self.offer(names)), None).unwrap()
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
    use crate::config::{Certificate, CertificateDemand};
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
            let offer = Offer {
                certificate: Certificate { certificate, key },
                client_authorities: None,
                demand: CertificateDemand::Nothing,
            };
            ClientEncryption::load(&ClientTls::Require(offer), None)
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
}
