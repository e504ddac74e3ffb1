"""Recovery: points become views, views become NBD exports, images and booted VMs."""
