//! The Postgres wire protocol, version 3: frames, startup, authentication, TLS.
