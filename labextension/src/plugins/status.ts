import type {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { CommandIDs } from '../commands';
import { StatusItem } from '../panels/status';
import { ISandboxModel } from '../tokens';

export const status: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-vsandbox:status',
  description: 'Names the machine behind the notebook in the status bar.',
  autoStart: true,
  requires: [ISandboxModel],
  optional: [IStatusBar, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    model: ISandboxModel,
    statusBar: IStatusBar | null,
    translator: ITranslator | null
  ) => {
    statusBar?.registerStatusItem('jupyter-vsandbox:status', {
      item: new StatusItem(model, translator ?? nullTranslator, () => {
        void app.commands.execute(CommandIDs.snapshot, { quick: true });
      }),
      align: 'left',
      rank: 3,
      isActive: () => model.status.kind !== 'none',
      activeStateChanged: model.stateChanged
    });
  }
};
