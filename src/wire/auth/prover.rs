//! The client's side of SCRAM-SHA-256, done with keys instead of a password: how a proxy logs in to a server that keeps the same verifier
//! as the one its own client has just proven itself against.
//!
//! Source: RFC 5802 section 3; libpq `fe-auth-scram.c`, options `scram_client_key` and `scram_server_key`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::verifier::{ScramKeys, signature, xor};

/// Letters of a nonce, before base64: as many as libpq's.
const NONCE_LENGTH: usize = 18;

/// Why a server is not shown, or not believed, a proof.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProverError {
    #[error("the server's message cannot be read")]
    Malformed,
    #[error("the server answered to another nonce")]
    Nonce,
    /// No proof can be made from these keys.
    #[error(
        "the server keeps another verifier than the one the client logged in with (its salt or iterations differ)"
    )]
    OtherVerifier,
    #[error("the server says {0}")]
    Refused(String),
    #[error("the server could not prove that it knows the verifier")]
    Signature,
}

/// One exchange.
pub struct Prover {
    keys: Arc<ScramKeys>,
    nonce: String,
    /// The header that says whether the exchange is bound to the TLS connection, and the binding itself.
    header: &'static str,
    binding: Vec<u8>,
    /// All that was said, once it has been.
    auth_message: String,
}

impl Prover {
    /// Begins an exchange with a nonce of its own.
    pub fn new(keys: Arc<ScramKeys>, binding: Binding) -> Prover {
        let (header, binding) = match binding {
            Binding::Impossible => ("n,,", Vec::new()),
            Binding::NotOffered => ("y,,", Vec::new()),
            Binding::EndPoint(hash) => ("p=tls-server-end-point,,", hash),
        };
        Prover {
            keys,
            nonce: STANDARD.encode(rand::random::<[u8; NONCE_LENGTH]>()),
            header,
            binding,
            auth_message: String::new(),
        }
    }

    /// The first message.
    pub fn first(&self) -> String {
        format!("{}{}", self.header, self.bare())
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// The last message, which holds the proof.
    pub fn last(&mut self, server_first: &[u8]) -> Result<String, ProverError> {
        let said = str::from_utf8(server_first).map_err(|_| ProverError::Malformed)?;
        let mut fields = said.split(',');
        let mut field = |name| {
            let field = fields.next().and_then(|field| field.strip_prefix(name));
            field.ok_or(ProverError::Malformed)
        };
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ProverError::Nonce);
        }
        let salt = STANDARD.decode(salt).map_err(|_| ProverError::Malformed)?;
        let iterations: usize = iterations.parse().map_err(|_| ProverError::Malformed)?;
        let verifier = &self.keys.verifier;
        if salt != verifier.salt || iterations != verifier.iterations {
            return Err(ProverError::OtherVerifier);
        }
        let binding = STANDARD.encode([self.header.as_bytes(), &self.binding].concat());
        let without_proof = format!("c={binding},r={nonce}");
        self.auth_message = format!("{},{said},{without_proof}", self.bare());
        let proof = xor(
            self.keys.client_key,
            signature(&verifier.stored_key, &self.auth_message),
        );
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    /// Whether the server knows the verifier.
    pub fn finish(&self, server_final: &[u8]) -> Result<(), ProverError> {
        let said = str::from_utf8(server_final).map_err(|_| ProverError::Malformed)?;
        if let Some(error) = said.strip_prefix("e=") {
            return Err(ProverError::Refused(error.to_owned()));
        }
        let signed = said
            .strip_prefix("v=")
            .map(|said| said.split(',').next().unwrap_or(said));
        let signed = signed.and_then(|signed| STANDARD.decode(signed).ok());
        let expected = signature(&self.keys.verifier.server_key, &self.auth_message);
        match signed {
            // Nothing was proven to it yet.
            _ if self.auth_message.is_empty() => Err(ProverError::Malformed),
            Some(signed) if bool::from(signed.ct_eq(&expected)) => Ok(()),
            Some(_) => Err(ProverError::Signature),
            None => Err(ProverError::Malformed),
        }
    }
}

/// How an exchange is tied to the TLS connection it runs on.
pub enum Binding {
    /// There is no TLS, or the certificate has no hash.
    Impossible,
    /// We could, and the server does not offer it: said inside the proof, so that it notices whoever took the offer away.
    NotOffered,
    /// `tls-server-end-point`: the hash of the server's certificate.
    EndPoint(Vec<u8>),
}
