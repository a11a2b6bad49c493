//! What a server defines: tables, columns, views and functions of one database.
