"""Everything that touches the world: queues, disks, engines, the network."""
