/* BCC includes it for networking programs; tracing programs need nothing of it. */
