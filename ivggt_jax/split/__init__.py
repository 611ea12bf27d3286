"""One long source in parallel: processes run the network, each over a submap of its own, and one makes the map of it.

What the network says within a submap depends on the frames since its anchor alone, and where the next anchor is on how
sharp they are. So a process that has read a submap's frames knows where the next begins before the network has seen any,
and another goes on from there (`process`). All the rest, poses refined, submaps linked, loops, files, follows in order, in
one process (`chain`), by the functions that a single one computes it with.
"""
