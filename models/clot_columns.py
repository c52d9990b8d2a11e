"""Columns that a slice network adds to its predictions from the clot map; standard library only.

    clot_left_mm2, clot_right_mm2      expected area of clot on either side of the midline
    clot_central_mm2, clot_chronic_mm2 expected area of central and of chronic clot
    clot_peak                          highest probability of a cell
    clot_hu, blood_hu                  mean attenuation of the clot and of the opacified blood around it
    clot_offset_mm                     distance of the clot's centre from the vessel's: larger if it adheres to a wall

Attenuation and offset are NaN where no cell is likely to contain clot. Attenuation is that of the exam, up to the upper
end of the network's first window; in views that `models.artery_hu` brightens, this is at fewer HU, so that weakly
opacified blood may be NaN. `models.clot_numbers` computes the numbers.
"""

#: Left, right, central, chronic.
AREAS = ("clot_left_mm2", "clot_right_mm2", "clot_central_mm2", "clot_chronic_mm2")
PEAK, CLOT_HU, BLOOD_HU, OFFSET_MM = "clot_peak", "clot_hu", "blood_hu", "clot_offset_mm"
CLOT_COLUMNS = (*AREAS, PEAK, CLOT_HU, BLOOD_HU, OFFSET_MM)
