import type {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { SandboxModel } from './model';
import { StatusItem } from './panels/status';
import { SandboxService } from './service';
import { ISandboxService } from './tokens';

export * from './tokens';

const service: JupyterFrontEndPlugin<ISandboxService> = {
  id: 'jupyter-vsandbox:service',
  description: 'Asks the server about the machines behind notebook kernels.',
  autoStart: true,
  provides: ISandboxService,
  activate: (app: JupyterFrontEnd) =>
    new SandboxService(app.serviceManager.serverSettings)
};

const status: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-vsandbox:status',
  description: 'Names the machine behind the notebook in the status bar.',
  autoStart: true,
  requires: [ISandboxService, INotebookTracker],
  optional: [IStatusBar, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    sandboxes: ISandboxService,
    tracker: INotebookTracker,
    statusBar: IStatusBar | null,
    translator: ITranslator | null
  ) => {
    if (!statusBar) {
      return;
    }
    const model = new SandboxModel(sandboxes);
    const follow = () => {
      const notebook = tracker.currentWidget;
      const inFront = notebook !== null && notebook === app.shell.currentWidget;
      model.context = inFront ? notebook.sessionContext : null;
    };
    app.shell.currentChanged?.connect(follow);
    tracker.currentChanged.connect(follow);
    follow();

    statusBar.registerStatusItem('jupyter-vsandbox:status', {
      item: new StatusItem(model, translator ?? nullTranslator),
      align: 'left',
      rank: 3,
      isActive: () => model.status.kind !== 'none',
      activeStateChanged: model.stateChanged
    });
  }
};

export default [service, status];
