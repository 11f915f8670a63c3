// Brings what histo_nb found into the images of this project. Research use only.
// In QuPath: Automate > Project scripts > import_findings, then Run > Run for project.
// An image that holds objects already is left as it is. Needs QuPath 0.4 or later.

// µm/px that a person gave, where the file says none or another
def given = [:]

def slide = getProjectEntry().getImageName()
if (given.containsKey(slide))
    setPixelSizeMicrons(given[slide], given[slide])
def file = new File(buildFilePath(PROJECT_BASE_DIR, "findings", slide + ".geojson"))
if (!file.exists()) {
    println slide + ": not analysed, nothing to import"
    return
}
if (!getAnnotationObjects().isEmpty() || !getDetectionObjects().isEmpty()) {
    println slide + ": has objects already, nothing was imported"
    return
}
setImageType("BRIGHTFIELD_H_E")
importObjectsFromFile(file.getAbsolutePath())
println slide + ": " + getAnnotationObjects().size() + " annotations, " + getDetectionObjects().size() + " tiles"
