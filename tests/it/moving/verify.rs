//! Both sides compared.
