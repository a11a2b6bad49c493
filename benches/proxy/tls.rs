//! A certificate for the proxies of one run, and a client that trusts it.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Result};
use crate::subjects::Tls;

/// Writes a certificate for `localhost` and its key into the folder, readable for every account.
pub fn make(folder: &Path) -> Result<(Tls, Arc<ClientConfig>)> {
    let failed =
        |e: &dyn std::fmt::Display| Error::Missing(format!("cannot make a certificate: {e}"));
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).map_err(|e| failed(&e))?;
    let (certificate, key) = (folder.join("proxy.crt"), folder.join("proxy.key"));
    for (path, text) in [
        (&certificate, made.cert.pem()),
        (&key, made.signing_key.serialize_pem()),
    ] {
        std::fs::write(path, text)
            .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    }
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).map_err(|e| failed(&e))?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((Tls::On { certificate, key }, Arc::new(config)))
}
