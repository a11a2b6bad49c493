//! An etcd that is killed, stopped, cut off, asks who we are, or is several.
