"""One long source in parallel: processes run the network, each on a submap of its own, and one process makes the map.

Predictions within a submap depend only on the frames since its anchor, and the next anchor only on the images' sharpness. So a
process that has read a submap's frames knows where the next one begins before its network has seen any, and another process
continues there (`process`). Everything else (refining poses, linking submaps, loops, files) is done in order in one process
(`chain`), with the same functions as in a run of a single process.
"""
