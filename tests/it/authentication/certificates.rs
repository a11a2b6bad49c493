//! TLS towards clients: certificates that name users, new files without a restart, TLS from the first byte, resumed sessions.
