"""The faults of one DICOM file."""


class DicomFault(Exception):
    """Why a DICOM file is not used; `reason` is one line for the quarantine list."""

    @property
    def reason(self) -> str:
        """The reason, in words."""
        return str(self)


class UnfinishedHeader(DicomFault):
    """The bytes at hand end before the header does, or make no sense; more of the file may help."""
